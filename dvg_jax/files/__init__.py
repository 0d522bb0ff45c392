"""Write files whole or not at all, check outputs before work begins, recognise formats, and lock folders."""
