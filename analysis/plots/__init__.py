"""Pictures of the report, drawn by matplotlib."""
