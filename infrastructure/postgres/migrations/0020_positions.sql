-- An append is sent whole, before its position is known: the position of an event is told by its place in the append, as a
-- negative number, from the head that the append found (`ledger.head`, which lasts for its transaction).
CREATE FUNCTION ledger.at(position_or_place bigint) RETURNS bigint
LANGUAGE sql STABLE
RETURN CASE
    WHEN position_or_place > 0 THEN position_or_place
    ELSE current_setting('ledger.head')::bigint - position_or_place
END;
