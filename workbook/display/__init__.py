"""What a notebook shows: figures, tables, exercises."""
