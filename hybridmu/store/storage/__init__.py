"""Files on a disk or in S3, whole or not at all."""
