/* Spectral indices, see indices.h. Doubles inside, rounded once to float at the end. */
#include "indices.h"

#include <math.h>
#include <stddef.h>

const char *const band_names[BANDS] = {"blue", "green", "red", "nir", "swir1", "swir2"};
const char *const index_names[INDICES] = {"ndvi", "evi2", "savi", "msavi2", "ndwi", "gndvi", "nbr"};

/* The two bands of each index, the one that counts positive first. */
static const enum band pairs[INDICES][2] = {
    {BAND_NIR, BAND_RED}, {BAND_NIR, BAND_RED},   {BAND_NIR, BAND_RED},   {BAND_NIR, BAND_RED},
    {BAND_GREEN, BAND_NIR}, {BAND_NIR, BAND_GREEN}, {BAND_NIR, BAND_SWIR2},
};

int32_t index_possible(enum index index, const int32_t present[BANDS])
{
    return present[pairs[index][0]] && present[pairs[index][1]];
}

static float ratio(double above, double below)
{
    return below == 0.0 ? (float)NAN : (float)(above / below);
}

static void normalised_difference(const double *a, const double *b, int64_t cells, float *out)
{
    for (int64_t i = 0; i < cells; i++)
        out[i] = ratio(a[i] - b[i], a[i] + b[i]);
}

/* Jiang and others, 2008: the enhanced vegetation index without the blue band. */
static void evi2(const double *nir, const double *red, double scale, int64_t cells, float *out)
{
    for (int64_t i = 0; i < cells; i++) {
        double n = nir[i] / scale, r = red[i] / scale;
        out[i] = ratio(2.5 * (n - r), n + 2.4 * r + 1.0);
    }
}

/* Huete, 1988, with the soil term L = 0.5. */
static void savi(const double *nir, const double *red, double scale, int64_t cells, float *out)
{
    for (int64_t i = 0; i < cells; i++) {
        double n = nir[i] / scale, r = red[i] / scale;
        out[i] = ratio(1.5 * (n - r), n + r + 0.5);
    }
}

/* Qi and others, 1994: the soil term follows from the cell itself. */
static void msavi2(const double *nir, const double *red, double scale, int64_t cells, float *out)
{
    for (int64_t i = 0; i < cells; i++) {
        double n = nir[i] / scale, r = red[i] / scale;
        double edge = 2.0 * n + 1.0;
        double under = edge * edge - 8.0 * (n - r);
        out[i] = under >= 0.0 ? (float)((edge - sqrt(under)) / 2.0) : (float)NAN;
    }
}

void index_compute(enum index index, const double *const samples[BANDS], double scale, int64_t cells, float *out)
{
    const double *a = samples[pairs[index][0]], *b = samples[pairs[index][1]];
    switch (index) {
    case INDEX_EVI2: evi2(a, b, scale, cells, out); break;
    case INDEX_SAVI: savi(a, b, scale, cells, out); break;
    case INDEX_MSAVI2: msavi2(a, b, scale, cells, out); break;
    default: normalised_difference(a, b, cells, out); break;
    }
}
