"""What the documents are made of and held against."""
