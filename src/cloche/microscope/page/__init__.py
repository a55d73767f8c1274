"""Pages without scripts: the report's HTML and SVG."""
