"""Named experiments from end to end: settings -> stages -> results.json, pictures, report."""
