"""The server's page: files for a browser, and what they show, as JSON.

Imported when the first call for it comes; no timer and no session is there before.
"""
