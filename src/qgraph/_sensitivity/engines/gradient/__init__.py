"""The engine `gradient`: every node's score estimated from backward passes."""
