"""Objects of an image in the formats of other tools: GeoJSON, LabelMe, YOLO, Label Studio, label images and tables."""
