"""HTML pages, images and plots for users: books, codebook, visualisations, datasets and model cards."""
