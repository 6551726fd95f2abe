"""What the site is made of beside the pages in docs/: reference written from the code, links, drawings."""
