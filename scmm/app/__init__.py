"""The page and the JSON API to search in a gallery: `scmm serve`."""
