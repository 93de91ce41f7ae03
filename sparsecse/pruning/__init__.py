"""From scores to a smaller model: what leaves, in which order, at what cost, and how what stays is repaired."""
