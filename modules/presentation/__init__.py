"""What a person opens: the picture book, its pages and the contact sheet."""
