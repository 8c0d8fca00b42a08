"""Keep figures, and show them: in tables, in a plot, and in the README's lines about speed."""
