"""Names of emotions, and the classes that count."""
