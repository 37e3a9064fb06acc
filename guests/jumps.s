# The tag of longjmp: with it goes the address of what it was given.
	.globl	__c_longjmp
	.tagtype	__c_longjmp i32
__c_longjmp:
