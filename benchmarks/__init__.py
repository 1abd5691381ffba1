"""Speed and quality, always measured beside a peer in the same run."""
