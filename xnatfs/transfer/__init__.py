"""Downloads: which bytes to fetch, who waits for them, when to stop."""
