"""HTTP, websockets and the dashboard."""
