"""Rules, by kind of operator."""
