"""Changes of samples, image and objects moved as one: `transform(image, instances, generator)` gives both back."""
