"""The operator console: its first page, its menu and its search. Each app's own pages are in its admin.py."""
