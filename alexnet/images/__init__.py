"""Image files to pixels: decoding, JPEG headers, resizing, YUV 4:2:0."""
