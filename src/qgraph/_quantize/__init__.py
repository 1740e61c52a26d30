"""From ranges and a profile to a Q/DQ model that is proved to be what it says."""
