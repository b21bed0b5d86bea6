"""What one user does; no counts, durations, hosts or limits."""
