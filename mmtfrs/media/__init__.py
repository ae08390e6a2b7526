"""Raw images, audio and video, decoded on the host or in the graph."""
