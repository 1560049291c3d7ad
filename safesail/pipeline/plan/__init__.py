"""What a pipeline would take: downloads, disk, memory, time, tokens and dollars, before anything is loaded."""
