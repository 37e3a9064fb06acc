/* Writing an 8-bit palette PNG. Colour 0 is fully transparent: it stands for missing cells. Reads nothing. */
#ifndef VEGETATION_PNG_H
#define VEGETATION_PNG_H

#include <stdint.h>

/* `cells` is [row][column], `palette` 256 colours of red, green, blue. 0, or -1 with errno set. */
int32_t png_write(const char *path, int32_t width, int32_t height, const uint8_t *cells, const uint8_t palette[256][3]);

#endif
