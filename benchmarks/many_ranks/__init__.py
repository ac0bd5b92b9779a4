"""What a growth event costs on many ranks: by formula for large shapes, and counted on two ranks."""
