/* The spectral indices: which bands each of them needs and its formula. Knows no MPI and no files. */
#ifndef VEGETATION_INDICES_H
#define VEGETATION_INDICES_H

#include <stdint.h>

enum band { BAND_BLUE, BAND_GREEN, BAND_RED, BAND_NIR, BAND_SWIR1, BAND_SWIR2, BANDS };
enum index { INDEX_NDVI, INDEX_EVI2, INDEX_SAVI, INDEX_MSAVI2, INDEX_NDWI, INDEX_GNDVI, INDEX_NBR, INDICES };

extern const char *const band_names[BANDS];
extern const char *const index_names[INDICES];

/* 1 when all bands that the index reads are there. */
int32_t index_possible(enum index index, const int32_t present[BANDS]);

/* Fills `out` with the index of `cells` cells. A cell with a NaN sample or no defined value becomes NaN. `scale` turns
 * a stored number into a reflectance of 0 to 1; the normalised differences don't need it and don't use it. */
void index_compute(enum index index, const double *const samples[BANDS], double scale, int64_t cells, float *out);

#endif
