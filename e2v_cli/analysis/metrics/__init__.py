"""Arrays of answers → metrics, their intervals and differences."""
