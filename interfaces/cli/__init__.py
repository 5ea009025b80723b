"""The command line: keyledger NOUN VERB."""
