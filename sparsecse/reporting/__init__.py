"""The report of a run: facts, their quality tables, charts as inline SVG, the HTML page and the PNG plots."""
