"""The report as one HTML file that fetches nothing: views made from a record, and templates."""
