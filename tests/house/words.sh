#!/bin/sh
# words.sh - words that must not be in the tree: marks of work left over, and calls
# that a library inside somebody else's process must not make.
cd "${srcdir:-.}" || exit 1
bad=0
mark='TO''DO|FIX''ME|XX''X|HA''CK'

if grep -rnwE "$mark" include lib tests examples bench man Makefile configure.ac ./*.md 2> /dev/null; then
    echo "finish or remove what is marked above"; bad=1
fi

# Calls in code, not in comments: a line's text before any comment, outside
# strings. lib/os may speak to the machine; the last word of vs_panic() is base's.
calls='printf|fprintf|vprintf|puts|putchar|perror|abort|exit|_exit|quick_exit|getenv|setenv|setlocale
signal|sigaction|raise|kill|fork|system|popen|time|clock|clock_gettime|gettimeofday|rand|srand|random
malloc|calloc|realloc|strdup|socket|connect|pthread_create|thrd_create|sleep|usleep|nanosleep|assert
strcpy|strcat|sprintf|gets|strtok|atoi|atexit'
calls=$(echo "$calls" | tr '\n' '|' | sed 's/|$//')
found=$(for file in lib/*/*.[ch]; do
    case $file in lib/os/*) continue ;; esac
    ${CC:-cc} -fpreprocessed -dD -E -P "$file" 2> /dev/null | sed 's/"[^"]*"//g' |
        grep -nE "(^|[^a-z0-9_>.])($calls) ?\(" | sed "s|^[0-9]*|$file|"
done | grep -vE '^lib/base/base.c: *abort\(\);$')
if [ -n "$found" ]; then
    echo "$found"
    echo "a library does not make the calls above"; bad=1
fi
exit $bad
