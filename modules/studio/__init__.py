"""The studio: an editor of picture stories in the browser, on this machine alone."""
