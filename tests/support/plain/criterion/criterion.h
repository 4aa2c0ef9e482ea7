/* criterion.h - what <criterion/criterion.h> finds in a build without Criterion. */
#include "support/criterion_plain.h"
