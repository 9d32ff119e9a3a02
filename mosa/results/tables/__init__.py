"""Tables of records, in every format."""
