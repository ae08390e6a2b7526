"""What any room needs: files, progress, reading ahead."""
