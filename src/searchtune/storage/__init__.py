"""What lies on disk: atomic writes, proof that a folder is whole, hashes, named assets, output folders."""
