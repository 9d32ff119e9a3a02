"""Tables, plots and the report: pure functions of the DataFrame of records. No torch."""
