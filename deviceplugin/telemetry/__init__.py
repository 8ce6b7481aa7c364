"""What the agent tells of itself: logs and counts."""
