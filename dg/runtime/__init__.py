"""What every command needs beside the method: atomic files, image data sets, resumable sample
stores, downloads."""
