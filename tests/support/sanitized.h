/* sanitized.h - whether a sanitizer that slows things down watches: a test then does
 * less, and says nothing about time. Under ThreadSanitizer a second is a minute, and under the
 * others several. */
#ifndef SUPPORT_SANITIZED_H
#define SUPPORT_SANITIZED_H

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SUPPORT_HAS_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || defined(SUPPORT_HAS_SANITIZER)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

#endif
