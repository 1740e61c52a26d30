"""From the values an activation takes to the range that INT8 covers."""
