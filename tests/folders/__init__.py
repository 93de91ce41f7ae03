"""Model folders of every layout that there is: `rows` lists them, `build` writes them."""
