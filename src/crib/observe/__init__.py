"""What the daemon tells of itself: its log. It reads; it never changes what it watches."""
