"""What a batch is by its records. Pure: no files, no clock, no asyncio."""
