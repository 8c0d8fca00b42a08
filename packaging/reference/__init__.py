"""Man pages, completions and the site's page of options, made from the parsers of the program."""
