-- Which webhook is handed over the successors of an account's keys; null: they are made by hand.
ALTER TABLE views.accounts ADD COLUMN hand_over_to text;
