"""What agents and tools use: sign, submit, follow, read with proof, verify; needs the core and aiohttp only."""
