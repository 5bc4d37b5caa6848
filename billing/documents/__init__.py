"""An invoice or credit note for people: one structure (`sheet`), shown as HTML by its template, as PDF and as CSV."""
